-- Are numbers corrected more often than words: mismatch rate by class of the small model's token?
with counted as (
    select s.dataset, s.pair, v.token_class, count(*) as tokens, sum(mismatch::int) as mismatches
    from token_pairs s join pairs p using (dataset, pair)
    join vocabulary v on v.model = p.model and v.token_id = s.small_id
    where p.role = 'small' and s.writer = 'large' and s.in_answer
    group by s.dataset, s.pair, v.token_class
)
select dataset, pair, token_class, tokens, round(100 * mismatches / tokens, 1) as mismatch_percent,
       round(100 * mismatches / sum(mismatches) over (partition by dataset, pair), 1) as share_of_mismatches_percent
from counted order by all
