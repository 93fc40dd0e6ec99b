-- What accuracy do tokens that the large model processed and FLOPs buy under the oracle, for every router and pair?
select f.*, p.size_ratio as ratio
from frontier f join pairs p using (dataset, pair)
where p.role = 'large' and cost_axis in ('large_tokens_processed', 'flops') and accuracy is not null and method = 'oracle'
order by dataset, ratio, pair, cost_axis, router, cost, policy
