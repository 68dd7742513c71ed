-- Query 21, channel: by its name, or out of the address.
CREATE TABLE q21 WITH (
  connector = 'file', path = '${DIR}/q21/data', format = 'csv', checkpointLocation = '${DIR}/q21/checkpoint'
);

INSERT INTO q21
SELECT auction, bidder, price, channel,
       CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
            ELSE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] END AS channel_id
FROM bid
WHERE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] IS NOT NULL
   OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu');
