-- How often does each method change the small model's token: CoF by pair, on the text that `<method>+always` writes?
select dataset, pair, method, round(100 * sum(mismatches) / sum(tokens), 1) as cof_percent,
       sum(tokens)::bigint as tokens, count(*) as prompts
from (
    select *, split_part(policy, '+', 1) as method from policy_results where policy like '%+always'
) group by all order by all
