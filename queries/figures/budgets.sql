-- Do routers keep on test prompts the budgets that were set on calibration prompts?
select f.*, p.ratio
from frontier f join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where axis = 'call_ratio' and budget is not null
order by dataset, ratio, pair, method = 'oracle', method, router, budget
