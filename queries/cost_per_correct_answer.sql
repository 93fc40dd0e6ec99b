-- What does a right answer cost: FLOPs and tokens processed by the large model, by policy, cheapest first?
select dataset, pair, policy, count(*) as prompts, count(*) filter (verdict = 'right') as right_answers,
       round(sum(flops) / 1e6 / nullif(count(*) filter (verdict = 'right'), 0), 2) as mflops_per_right_answer,
       round(sum(large_tokens_processed) / nullif(count(*) filter (verdict = 'right'), 0), 1)
           as large_tokens_per_right_answer
from policy_results where verdict is not null
group by all order by dataset, pair, mflops_per_right_answer nulls last, policy
