-- Query 2, selection: the bids for some auctions.
CREATE TABLE q2 WITH (
  connector = 'file', path = '${DIR}/q2/data', format = 'csv', checkpointLocation = '${DIR}/q2/checkpoint'
);

INSERT INTO q2
SELECT auction, price FROM bid WHERE auction % 123 = 0;
