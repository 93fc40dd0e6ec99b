-- Where do the first ten mismatches of one prompt lie, and what does each model say there?
-- `--set pair=...` and `--set prompt_id=...` choose; else the pair that disagrees most, and the prompt where it does.
with disputed as (
    select * from sides where writer = 'large' and in_answer and disagree
), chosen as (
    select coalesce(getvariable('pair'), mode(pair)) as pair from disputed
)
select pair, prompt_id, pos, piece as large_wrote, small_piece as small_says,
       round(small_probability, 3) as with_probability, round(small_entropy, 2) as small_nats,
       round(large_probability, 3) as large_probability
from disputed join chosen using (pair)
where prompt_id = coalesce(getvariable('prompt_id'), (select mode(prompt_id) from disputed join chosen using (pair)))
order by pos limit 10
