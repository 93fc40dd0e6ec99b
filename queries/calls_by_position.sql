-- Where in its text does a policy call the large model, and how often does a call change the token?
-- `--set policy=...` chooses the policy, else oracle+entropy@20.
select dataset, pair, pos // 10 * 10 as from_position, count(*) as tokens,
       round(100 * avg(called::int), 1) as called_percent,
       round(100 * avg(mismatch::int) filter (called), 1) as changed_of_called_percent
from rollout_tokens
where policy = coalesce(getvariable('policy'), 'oracle+entropy@20') and in_answer
group by all order by all
