-- What accuracy do the calls of each router buy, for every method and pair?
select f.*, p.size_ratio as ratio
from frontier f join pairs p using (dataset, pair)
where p.role = 'large' and cost_axis = 'call_ratio' and accuracy is not null
  and router <> 'drafting' -- its calls are rounds, not tokens
order by dataset, ratio, pair, method, router, cost, policy
