-- How many drafted tokens does the large model accept, and what speed-up may be expected of drafting?
with ratios as (
    select dataset, pair, size_ratio as ratio from pairs where role = 'large'
)
select 'draft' as kind, dataset, pair, ratio, draft_length, accepted_length as value,
       accepted_length_low as low, accepted_length_high as high,
       null::varchar as mode, null::double as value_high, null::double as cost_ratio,
       null::double as flops_ratio
from accepted_lengths join ratios using (dataset, pair)
union all by name
select 'acceptance' as kind, dataset, pair, ratio, mode, rate as value, rate_upper as value_high,
       rate_low as low, rate_high as high
from acceptance_rates join ratios using (dataset, pair)
union all by name
select 'speedup' as kind, dataset, pair, ratio, draft_length, cost_ratio, flops_ratio, speedup as value,
       speedup_low as low, speedup_high as high
from speedups join ratios using (dataset, pair)
order by kind, dataset, ratio, pair, draft_length, cost_ratio, mode
