-- What accuracy do large-model positions and FLOPs buy under the oracle, for every router and pair?
select f.*, p.size_ratio as ratio
from frontier f join pairs p using (dataset, pair)
where p.role = 'large' and axis in ('large_positions', 'flops') and accuracy is not null and method = 'oracle'
order by dataset, ratio, pair, axis, router, x, policy
