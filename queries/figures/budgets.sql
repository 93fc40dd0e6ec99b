-- Do routers keep on test prompts the budgets that were set on calibration prompts?
select f.*, p.size_ratio as ratio
from frontier f join pairs p using (dataset, pair)
where p.role = 'large' and cost_axis = 'call_ratio' and budget is not null
order by dataset, ratio, pair, method = 'oracle', method, router, budget
