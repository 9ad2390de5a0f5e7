-- Requests of `wrk` for single showers, each with a seed of its own; prints latencies and how often each status came.
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  math.randomseed(number + 1)
  statuses = {}
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "application/vnd.apache.arrow.stream"
  wrk.headers["X-API-Key"] = os.getenv("CALOGAN_API_KEY")
end

function request()
  return wrk.format(nil, "/v1/showers", nil, string.format('{"energy": 100, "seed": %d}', math.random(1, 2 ^ 31)))
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
  local total = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      total[status] = (total[status] or 0) + count
    end
  end
  local parts = {}
  for status, count in pairs(total) do
    table.insert(parts, string.format('"%d": %d', status, count))
  end
  local errors = summary.errors
  io.write(string.format('{"seconds": %.3f, "p50_ms": %.2f, "p99_ms": %.2f, "dropped": %d, "statuses": {%s}}\n',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(parts, ", ")))
end
