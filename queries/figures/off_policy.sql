-- How good are off-policy estimates: call ratios against those of rollouts, and how long policies follow dumped text?
select 'estimate' as kind, dataset, pair, method, router, policy,
       off_policy, off_policy_low, off_policy_high, on_policy_value, on_policy_value_low, on_policy_value_high,
       null::bigint as pos, null::double as survival, null::double as low, null::double as high
from off_policy_estimates where quantity = 'call_ratio'
union all by name
select 'survival' as kind, dataset, pair, method, router, policy, pos, survival,
       survival_low as low, survival_high as high
from survival join (
    select dataset, arg_max(pair, (size_ratio, pair)) as pair from pairs group by dataset
) using (dataset, pair)
where method = 'oracle' and router = 'entropy'
order by kind, dataset, pair, policy, pos
