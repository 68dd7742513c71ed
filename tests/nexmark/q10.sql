-- Query 10, log to files: all bids, in a directory for each day and minute.
CREATE TABLE q10 WITH (
  connector = 'file', path = '${DIR}/q10/data', format = 'csv', partitionBy = 'dt,hm',
  checkpointLocation = '${DIR}/q10/checkpoint'
);

INSERT INTO q10
SELECT auction, bidder, price, date_time, extra,
       to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm
FROM bid;
