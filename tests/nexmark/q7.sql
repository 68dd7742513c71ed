-- Query 7, highest bid: the bids with the highest price of each ten seconds.
-- The rank stands in place of the join of all bids with the maximum of their window.
CREATE TABLE q7 WITH (
  connector = 'file', path = '${DIR}/q7/data', format = 'csv', checkpointLocation = '${DIR}/q7/checkpoint'
);

INSERT INTO q7
SELECT auction, price, bidder, date_time, extra
FROM (
  SELECT *, rank() OVER (PARTITION BY window_start, window_end ORDER BY price DESC) AS place
  FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
)
WHERE place = 1;
