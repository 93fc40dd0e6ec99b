-- Where are the first ten mismatches of one prompt, and what does each model predict there?
-- `--set pair=...` and `--set prompt_id=...` choose; else the pair that disagrees most, and the prompt where it does.
with disputed as (
    select * from token_pairs
    where writer = 'large' and in_answer and mismatch and pair = coalesce(getvariable('pair'), pair)
), chosen_pair as (
    select pair from disputed group by pair order by count(*) desc, pair limit 1
), chosen as (
    select pair, dataset, prompt_id from disputed join chosen_pair using (pair)
    where prompt_id = coalesce(getvariable('prompt_id'), prompt_id)
    group by all order by count(*) desc, dataset, prompt_id limit 1
)
select pair, prompt_id, pos, piece as large_wrote, small_piece as small_says,
       round(small_probability, 3) as with_probability, round(small_entropy, 2) as small_nats,
       round(large_probability, 3) as large_probability
from disputed join chosen using (pair, dataset, prompt_id)
order by pos limit 10
