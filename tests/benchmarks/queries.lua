-- wrk's side of `make bench-serve`: every request asks another query.
-- wrk ... URL -- FILE BEFORE AFTER START: FILE has JSON strings without their quotes, one a line;
-- a body is BEFORE, one of them with a number that starts at START, AFTER.

local queries, before, after, asked = {}, "", "", 0

function init(arguments)
  for line in io.lines(arguments[1]) do queries[#queries + 1] = line end
  before, after = arguments[2], arguments[3]
  asked = tonumber(arguments[4])
  wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
end

function request()
  asked = asked + 1
  local body = before .. queries[asked % #queries + 1] .. " " .. asked .. after
  return wrk.format(nil, nil, nil, body)
end

-- Answers a second are those that were no errors; an error is quicker than an answer.
function done(summary, latency)
  local failed = summary.errors
  local good = summary.requests - failed.status
  io.write(string.format(
    '\nfigures {"per_second": %f, "p50_ms": %f, "p95_ms": %f, "refused": %d, "lost": %d}\n',
    good / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(95) / 1e3, failed.status,
    failed.connect + failed.read + failed.write + failed.timeout))
end
