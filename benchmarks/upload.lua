-- wrk's script for every measurement: sends one request over and over, and prints one line of JSON.
-- wrk -H "Name: value" URL -- METHOD EXPECTED_STATUS THREADS BODY_FILE PATHS_FILE; the last two may be "-".
-- With PATHS_FILE each request takes the next line of it as its path (presigned URLs), or, when it has at most FEW lines,
-- each thread a line of its own: formatting a request of 10 MB anew costs 10 ms, which the others do not pay.

local FEW = 64
local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("turn", #threads - 1)
end

local function contents(name)
  if name == "-" then return nil end
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(arguments)
  wrk.method, expected, wrk.body = arguments[1], tonumber(arguments[2]), contents(arguments[4])
  unexpected, last = 0, 0
  if expected == 302 then response = nil end -- looking at each answer costs wrk half its speed; it counts 4xx and 5xx itself
  local paths = {}
  for path in (contents(arguments[5]) or ""):gmatch("[^\n]+") do table.insert(paths, path) end
  if #paths <= FEW then -- wrk then formats one request and keeps it
    wrk.path = paths[turn + 1] or wrk.path
    return
  end
  request = function()
    turn = (turn + arguments[3]) % #paths -- from the thread's number on, so that no two threads meet
    return wrk.format(nil, paths[turn + 1])
  end
end

function response(status)
  if status ~= expected then
    unexpected, last = unexpected + 1, status
  end
end

function done(summary, latency)
  local wrong, status, errors = 0, 0, summary.errors
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("unexpected")
    status = math.max(status, thread:get("last"))
  end
  io.write(string.format(
    '{"answers": %d, "unexpected": %d, "status": %d, "broken": %d, "timeouts": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, math.max(wrong, errors.status), status, errors.connect + errors.read + errors.write, errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
