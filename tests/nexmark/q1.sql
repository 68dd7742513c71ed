-- Query 1, currency: each price in euros. The result is a DECIMAL, so nothing is lost to floating point.
CREATE TABLE q1 WITH (
  connector = 'file', path = '${DIR}/q1/data', format = 'csv', checkpointLocation = '${DIR}/q1/checkpoint'
);

INSERT INTO q1
SELECT auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price, date_time, extra FROM bid;
