-- Query 22, directories of the address.
CREATE TABLE q22 WITH (
  connector = 'file', path = '${DIR}/q22/data', format = 'csv', checkpointLocation = '${DIR}/q22/checkpoint'
);

INSERT INTO q22
SELECT auction, bidder, price, channel,
       split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3
FROM bid;
