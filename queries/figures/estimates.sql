-- What is an estimate from the dumps worth: call ratios beside those of rollouts, and how long the dumped text holds?
select 'estimate' as kind, dataset, pair, method, router, policy,
       estimate, estimate_low, estimate_high, exact, exact_low, exact_high,
       null::bigint as pos, null::double as survival, null::double as low, null::double as high
from estimates where quantity = 'call_ratio'
union all by name
select 'survival' as kind, dataset, pair, method, router, policy, pos, survival, low, high
from survival join (
    select dataset, arg_max(pair, (size_ratio, pair)) as pair from pairs group by dataset
) using (dataset, pair)
where method = 'oracle' and router = 'entropy'
order by kind, dataset, pair, policy, pos
