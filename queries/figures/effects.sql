-- What does a token's place do to the odds of a mismatch, and what of it is left once the entropy is known?
select d.*, p.ratio
from effects d join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where method = 'oracle' and writer = 'large'
  and term in ('per doubling of position', 'first token', 'sentence start')
order by dataset, ratio, pair, term, model
