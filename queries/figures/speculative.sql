-- How many drafted tokens does the large model accept, and what speed-up may be expected of drafting?
with ratios as (
    select dataset, pair, size_ratio as ratio from pairs where role = 'large'
)
select 'draft' as kind, dataset, pair, ratio, draft, accepted as value, low, high,
       null::varchar as quantity, null::double as value_high, null::double as cost_ratio,
       null::double as own_cost_ratio
from drafts join ratios using (dataset, pair)
union all by name
select 'acceptance' as kind, dataset, pair, ratio, quantity, value, value_high, low, high
from acceptance join ratios using (dataset, pair)
union all by name
select 'speedup' as kind, dataset, pair, ratio, draft, cost_ratio, own_cost_ratio, speedup as value, low, high
from speedups join ratios using (dataset, pair)
order by kind, dataset, ratio, pair, draft, cost_ratio, quantity
