-- How likely is one router to be more accurate than another at the same call ratio (the budget nearest to 20 %)?
select d.*, p.size_ratio as ratio
from duels d join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle'
  and budget = (select arg_min(budget, (abs(budget - 0.2), budget)) from duels where method = 'oracle')
order by dataset, ratio, pair, router, rival
