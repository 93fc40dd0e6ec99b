-- Which answers does a policy rescue, and which does it ruin, compared with the small model alone?
-- `--set policy=...` chooses the policy, else oracle+entropy@20.
select t.dataset, t.pair,
       count(*) filter (t.verdict = 'right' and g.verdict <> 'right') as rescued,
       count(*) filter (t.verdict <> 'right' and g.verdict = 'right') as ruined,
       count(*) filter (t.verdict = 'right' and g.verdict = 'right') as right_both, count(*) as prompts
from policy_results t join pairs p using (dataset, pair)
join (select model, dataset, prompt_id, arg_max(verdict, turn) as verdict from model_grades group by all) g
    using (model, dataset, prompt_id)
where p.role = 'small' and t.policy = coalesce(getvariable('policy'), 'oracle+entropy@20')
group by all order by all
