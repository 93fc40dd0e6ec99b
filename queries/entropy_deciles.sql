-- Is the large model needed where the small model is uncertain: mismatch rate by decile of its entropy?
with placed as (
    select *, ntile(10) over (partition by dataset, pair order by entropy, prompt_id, pos) as decile
    from router_scores where method = 'oracle' and writer = 'small' and in_answer
), counted as (
    select dataset, pair, decile, round(min(entropy), 3) as from_nats, round(max(entropy), 3) as to_nats,
           count(*) as tokens, sum(mismatch::int) as mismatches
    from placed group by dataset, pair, decile
)
select dataset, pair, decile, from_nats, to_nats, tokens, round(100 * mismatches / tokens, 1) as mismatch_percent,
       round(100 * mismatches / sum(mismatches) over (partition by dataset, pair), 1) as share_of_mismatches_percent
from counted order by all
