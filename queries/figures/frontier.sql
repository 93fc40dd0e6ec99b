-- What accuracy do the calls of each router buy, for every method and pair?
select f.*, p.ratio
from frontier f join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where axis = 'call_ratio' and accuracy is not null
  and method <> 'speculative' -- its calls are rounds, not tokens
order by dataset, ratio, pair, method, router, x, policy
