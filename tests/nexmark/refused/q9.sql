-- Query 9, winning bids: the highest bid of each auction.
-- As query 4. Without the auctions' columns the highest bid so far is an aggregate (queries 17 and 18).
CREATE TABLE q9 WITH (
  connector = 'file', path = '${DIR}/q9/data', format = 'csv', checkpointLocation = '${DIR}/q9/checkpoint'
);

INSERT INTO q9
SELECT id, item_name, bidder, price
FROM (
  SELECT a.id, a.item_name, b.bidder, b.price,
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
  FROM auction a JOIN bid b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
)
WHERE place = 1;
