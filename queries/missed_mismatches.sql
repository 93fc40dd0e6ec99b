-- Which mismatches does a router miss: confident errors of the small model on its own text, most confident first?
-- `--set pair=...` chooses the pair, else all.
select dataset, pair, prompt_id, pos, small_piece as small_writes, round(small_probability, 3) as with_probability,
       large_piece as large_would_write, round(large_probability, 3) as large_probability
from token_pairs
where writer = 'small' and in_answer and mismatch and pair = coalesce(getvariable('pair'), pair)
order by small_probability desc, dataset, pair, prompt_id, pos limit 20
