-- wrk script. Arguments: token file ("-" for none), how many of its tokens (0: all), index of the first, method, body
-- size, "close" or "keep". Sends the tokens in turn and prints one line of JSON.
local tokens, at, head, tail, fixed = {}, 0, nil, nil, nil

function init(args)
  local file, count, first, method, size, conn = args[1], tonumber(args[2]), tonumber(args[3]), args[4], tonumber(args[5]), args[6]
  head = method .. " /v1/items?page=2 HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: bench\r\nAccept: */*\r\n"
  tail = "\r\n"
  if conn == "close" then head = head .. "Connection: close\r\n" end
  if size > 0 then
    head = head .. "Content-Type: application/octet-stream\r\nContent-Length: " .. size .. "\r\n"
    tail = tail .. string.rep("x", size)
  end
  if file ~= "-" then
    for line in io.lines(file) do
      tokens[#tokens + 1] = line
      if #tokens == count then break end
    end
    head, tail = head .. "Authorization: Bearer ", "\r\n" .. tail
    at = first % #tokens
  end
  if #tokens <= 1 then fixed = head .. (tokens[1] or "") .. tail end
end

function request()
  if fixed then return fixed end
  at = at % #tokens + 1
  return head .. tokens[at] .. tail
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\n{"requests":%d,"seconds":%.6f,"refused":%d,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout))
end
