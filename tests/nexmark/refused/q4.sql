-- Query 4, average price for a category: of the winning bids of auctions that have ended.
-- A join of two streams, and each auction has an end of its own: no one bound says how long bids are to be kept.
CREATE TABLE q4 WITH (
  connector = 'file', path = '${DIR}/q4/data', format = 'csv', checkpointLocation = '${DIR}/q4/checkpoint'
);

INSERT INTO q4
SELECT category, avg(final) AS price
FROM (
  SELECT a.id, a.category, max(b.price) AS final
  FROM auction a JOIN bid b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
  GROUP BY a.id, a.category
)
GROUP BY category;
