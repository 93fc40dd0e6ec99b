-- What accuracy do large-model positions and FLOPs buy under the oracle, for every router and pair?
select f.*, p.ratio
from frontier f join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where axis in ('large_positions', 'flops') and accuracy is not null and method = 'oracle'
order by dataset, ratio, pair, axis, router, x, policy
