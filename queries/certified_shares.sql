-- How much of each method is proven over the full vocabulary from the stored lists, rather than likely?
select dataset, pair, method, count(*) as positions,
       round(100 * avg(certified::int), 2) as certified_percent
from fused_tokens where writer = 'large' and in_answer
group by all order by all
