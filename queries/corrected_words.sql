-- Which tokens does the large model correct most often, and into what, by class of token?
-- Small model's own text; `--set pair=...` chooses the pair, else the one that disagrees most.
with chosen as (
    select pair from token_pairs where mismatch and pair = coalesce(getvariable('pair'), pair)
    group by pair order by count(*) desc, pair limit 1
)
select token_class, small_piece as instead_of, large_piece as written, count(*) as times,
       round(avg(small_entropy), 2) as small_nats, round(avg(large_probability), 3) as large_probability
from token_pairs join chosen using (pair)
where writer = 'small' and in_answer and mismatch
group by all order by times desc, token_class, instead_of, written limit 20
