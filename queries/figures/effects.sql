-- What does a token's place do to the odds of a mismatch, and what of it is left once the entropy is known?
select d.*, p.size_ratio as ratio
from effects d join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle' and writer = 'large'
  and term in ('per doubling of position', 'first token', 'sentence start')
order by dataset, ratio, pair, term, d.model
