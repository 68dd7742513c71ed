-- Query 6, average selling price by seller: of the ten newest auctions of each.
-- As query 4, and the order is that of the winning bids, which are known late.
CREATE TABLE q6 WITH (
  connector = 'file', path = '${DIR}/q6/data', format = 'csv', checkpointLocation = '${DIR}/q6/checkpoint'
);

INSERT INTO q6
SELECT seller, avg(price) OVER (PARTITION BY seller ORDER BY date_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS price
FROM (
  SELECT a.id, a.seller, b.price, b.date_time,
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC) AS place
  FROM auction a JOIN bid b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
)
WHERE place = 1;
