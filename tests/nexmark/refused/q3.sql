-- Query 3, local items: who sells in a category, from some states.
-- A join of two streams without a bound in time: either side would be kept for ever. Write persons to files (query 0 in
-- shape) and join the auctions with these.
CREATE TABLE q3 WITH (
  connector = 'file', path = '${DIR}/q3/data', format = 'csv', checkpointLocation = '${DIR}/q3/checkpoint'
);

INSERT INTO q3
SELECT p.name, p.city, p.state, a.id
FROM auction a JOIN person p ON a.seller = p.id
WHERE a.category = 10 AND (p.state = 'OR' OR p.state = 'ID' OR p.state = 'CA');
