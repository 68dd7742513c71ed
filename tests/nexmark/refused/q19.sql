-- Query 19, auction top 10: the ten highest bids of each auction.
-- Which rows these are changes for ever, and rows that were written are never taken back. In a window it is query 7 with
-- place <= 10.
CREATE TABLE q19 WITH (
  connector = 'file', path = '${DIR}/q19/data', format = 'csv', checkpointLocation = '${DIR}/q19/checkpoint'
);

INSERT INTO q19
SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS place FROM bid)
WHERE place <= 10;
