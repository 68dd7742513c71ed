-- Query 0, pass through: what decoding and writing cost.
CREATE TABLE q0 WITH (
  connector = 'file', path = '${DIR}/q0/data', format = 'csv', checkpointLocation = '${DIR}/q0/checkpoint'
);

INSERT INTO q0
SELECT auction, bidder, price, date_time, extra FROM bid;
