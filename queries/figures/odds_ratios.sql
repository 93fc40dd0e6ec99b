-- How does a token's position change the odds of a mismatch, and what remains of that once the entropy is known?
select d.*, p.size_ratio as ratio
from mismatch_odds_ratios d join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle' and writer = 'large'
  and term in ('per doubling of position', 'first token', 'sentence start')
order by dataset, ratio, pair, term, regressors
