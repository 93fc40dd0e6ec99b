-- How likely is one router to be more accurate than another at the same call ratio (the budget nearest to 20 %)?
select d.*, p.ratio
from duels d join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where method = 'oracle'
  and budget = (select arg_min(budget, (abs(budget - 0.2), budget)) from duels where method = 'oracle')
order by dataset, ratio, pair, router, rival
