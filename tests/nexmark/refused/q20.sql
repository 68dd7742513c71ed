-- Query 20, expand bids with their auction: a join of two streams without a bound in time. With the auctions in files it
-- is query 13.
CREATE TABLE q20 WITH (
  connector = 'file', path = '${DIR}/q20/data', format = 'csv', checkpointLocation = '${DIR}/q20/checkpoint'
);

INSERT INTO q20
SELECT b.auction, b.bidder, b.price, a.item_name, a.seller, a.category
FROM bid b JOIN auction a ON b.auction = a.id
WHERE a.category = 10;
