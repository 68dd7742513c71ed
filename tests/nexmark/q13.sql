-- Query 13, bounded side input: each bid with what a file says of its auction. The files are looked at before each batch.
CREATE TABLE side_input (key BIGINT, value STRING)
WITH (connector = 'file', path = '${DIR}/side_input', format = 'csv');
CREATE TABLE q13 WITH (
  connector = 'file', path = '${DIR}/q13/data', format = 'csv', checkpointLocation = '${DIR}/q13/checkpoint'
);

INSERT INTO q13
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b JOIN side_input s ON b.auction % 100 = s.key;
