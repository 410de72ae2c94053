-- Generates wrk's requests and checks the responses. Arguments, after wrk's own:
--   kind   one of the kinds below
--   path   the path of a plain GET; other kinds ignore it
--   seed   the seed of the random numbers
--   log    a file to write decisions to, as lines of "package_id status"
--   known  a file with the package_ids of earlier packages, one per line
--   ready  the number of requests to generate before the clock starts, so that wrk uses less
--          of the CPU time that it shares with the server

local BATCH = 500
local random, format = math.random, string.format

-- Random, so that ids are spread over an index, like those of independent senders.
local function uuid()
  return format("%08x-%04x-4%03x-%04x-%04x%08x",
    random(0, 0xffffffff), random(0, 0xffff), random(0, 0xfff),
    random(0x8000, 0xbfff), random(0, 0xffff), random(0, 0xffffffff))
end

-- A package's fields are derived from its id, so that a retry only needs the id.
local function package(id)
  return format(
    '{"timestamp":"2142-03-01T12:00:00Z","sender_id":"sender-%s","recipient_id":"recipient-%s",' ..
    '"package_id":"%s","package_type":"%s"}',
    id:sub(1, 1), id:sub(1, 3), id, id:sub(-1) < "8" and "personal" or "marketing")
end

local function batch()
  local packages = {}
  for i = 1, BATCH do packages[i] = package(uuid()) end
  return "[" .. table.concat(packages, ",") .. "]"
end

local function preferences_path()
  return format("/recipients/recipient-%03x/preferences", random(0, 0xfff))
end

-- Newer than all earlier updates, including those of earlier runs.
local started, updates = os.date("!%Y-%m-%dT%H:%M:%S"), 0
local function update()
  updates = updates + 1
  return format('{"timestamp":"%s.%06dZ","personal_preference":%s,"marketing_preference":%s}',
    started, updates, tostring(random() < 0.9), tostring(random() < 0.5))
end

local known = {}
local function known_id()
  return known[random(#known)]
end

local log
local function log_decisions(body)
  local count = 0
  for id, status in body:gmatch('"package_id":"([^"]+)","status":"(%a+)"') do
    log:write(id, " ", status, "\n")
    count = count + 1
  end
  return count
end

-- For each kind, the request and, where wrk's own count of statuses from 400 on is not enough,
-- a check of the response.
local kinds = {
  get = {
    request = function() return wrk.format("GET", wrk.path) end,
  },
  send = {
    request = function() return wrk.format("POST", "/packages", nil, package(uuid())) end,
    is_good = function(status, headers, body)
      return status == 201 and log_decisions(body) == 1
    end,
  },
  retry = {
    request = function() return wrk.format("POST", "/packages", nil, package(known_id())) end,
    is_good = function(status, headers)
      return status == 200 and headers["Idempotent-Replayed"] == "true"
    end,
  },
  batch = {
    request = function() return wrk.format("POST", "/packages/batch", nil, batch()) end,
    is_good = function(status, headers, body)
      return status == 200 and log_decisions(body) == BATCH
    end,
  },
  update = {
    request = function() return wrk.format("PUT", preferences_path(), nil, update()) end,
  },
  read_package = {
    request = function() return wrk.format("GET", "/packages/" .. known_id()) end,
  },
  read_preferences = {
    request = function() return wrk.format("GET", preferences_path()) end,
  },
}

local thread
function setup(the_thread)
  thread = the_thread
end

-- Read by done(), which wrk runs in another thread.
made, bad, started_at = 0, 0, 0

function init(args)
  local kind = kinds[args[1]]
  wrk.path = args[2]
  math.randomseed(tonumber(args[3]))
  log = assert(io.open(args[4], "w"))
  for id in io.lines(args[5]) do known[#known + 1] = id end
  local ready = {}
  for i = 1, tonumber(args[6]) do ready[i] = kind.request() end
  started_at = os.clock()
  function request()
    made = made + 1
    return ready[made] or kind.request()
  end
  if kind.is_good then
    function response(status, headers, body)
      if not kind.is_good(status, headers, body) then bad = bad + 1 end
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  print(format('{"seconds":%f,"made":%d,"answers":%d,"bad":%d,"broken":%d,"processor":%f,"p50":%f,"p99":%f}',
    summary.duration / 1e6,
    thread:get("made") - 1,  -- wrk generates one that it doesn't send
    summary.requests,
    math.max(errors.status, thread:get("bad")),
    errors.connect + errors.read + errors.write + errors.timeout,
    os.clock() - thread:get("started_at"),
    latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3))
end
