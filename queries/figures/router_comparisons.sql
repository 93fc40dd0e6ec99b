-- How likely is one router to be more accurate than another at the same call ratio (the budget nearest to 20 %)?
select d.*, p.size_ratio as ratio
from router_comparisons d join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle'
  and call_ratio = (
      select arg_min(call_ratio, (abs(call_ratio - 0.2), call_ratio)) from router_comparisons where method = 'oracle'
  )
order by dataset, ratio, pair, router, other_router
