-- Where do two routers disagree at the same position of the same text, and which of them is right?
-- `--set one=... --set other=...` choose the policies, else entropy and margin at 20 %.
with chosen as (
    select coalesce(getvariable('one'), 'oracle+entropy@20') as one,
           coalesce(getvariable('other'), 'oracle+margin@20') as other
)
select a.dataset, a.pair, if(a.called, one, other) as calls, count(*) as positions,
       round(100 * avg(a.mismatch::int), 1) as call_needed_percent
from simulated_tokens a join simulated_tokens b using (dataset, pair, prompt_id, turn, pos), chosen
where a.policy = one and b.policy = other and a.in_answer and a.called <> b.called
group by all order by all
