-- Do policies keep their budget on prompts that calibration never saw?
select dataset, pair, policy, try_cast(split_part(policy, '@', 2) as double) as budget_percent,
       round(100 * sum(calls) / sum(tokens), 1) as called_percent,
       round(100 * sum(interventions) / sum(tokens), 1) as changed_percent
from policy_results where policy like '%+%@%'
group by all order by all
