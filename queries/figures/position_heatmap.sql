-- Where in the large model's answers would the small one have said something else?
select d.*, p.ratio
from positions d join (
    select distinct dataset, pair, large_b / small_b as ratio from points where basis = 'dumps'
) p using (dataset, pair)
where method = 'oracle' and writer = 'large'
order by dataset, ratio, pair, scale, bin
