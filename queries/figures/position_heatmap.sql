-- Where in the large model's answers does the small model predict another token?
select d.*, p.size_ratio as ratio
from mismatch_by_position d join pairs p using (dataset, pair)
where p.role = 'large' and method = 'oracle' and writer = 'large'
order by dataset, ratio, pair, scale, bin
