package main

import (
	"encoding/binary"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"trine.bench/baselines/measure"
)

// A meter counts what was acknowledged, and what it cost this process.
type meter struct {
	acknowledged atomic.Int64
	errors       atomic.Int64
	firstError   atomic.Pointer[string]

	latencies histogram
	lock      sync.Mutex

	before, after reading
}

type reading struct {
	taken        bool
	at           time.Time
	cpu          time.Duration
	acknowledged int64
}

type report struct {
	Client         string  `json:"client"`
	Seconds        float64 `json:"seconds"`
	Records        int64   `json:"records"`
	RecordsPerS    float64 `json:"records_per_s"`
	CPUUsPerRecord float64 `json:"cpu_us_per_record"`
	P50Us          float64 `json:"p50_us"`
	P99Us          float64 `json:"p99_us"`
	P999Us         float64 `json:"p999_us"`
	Acknowledged   int64   `json:"acknowledged"`
	Errors         int64   `json:"errors"`
	FirstError     *string `json:"first_error"`
}

// settled takes in what became of a record; dueNs is zero where latency is not
// asked for.
func (m *meter) settled(dueNs int64, err error) {
	if err != nil {
		m.errors.Add(1)
		text := err.Error()
		m.firstError.CompareAndSwap(nil, &text)
		return
	}
	m.acknowledged.Add(1)
	if dueNs != 0 {
		latencyNs := time.Now().UnixNano() - dueNs
		m.lock.Lock()
		m.latencies.add(uint64(max(latencyNs, 1)))
		m.lock.Unlock()
	}
}

func (m *meter) start() { m.read(&m.before) }

func (m *meter) stop() { m.read(&m.after) }

// read takes a reading once.
func (m *meter) read(into *reading) {
	if into.taken {
		return
	}
	*into = reading{true, time.Now(), measure.CPU(), m.acknowledged.Load()}
}

func (m *meter) report(client string) report {
	seconds := m.after.at.Sub(m.before.at).Seconds()
	records := m.after.acknowledged - m.before.acknowledged
	us := func(quantile float64) float64 { return float64(m.latencies.at(quantile)) / 1e3 }
	r := report{
		Client:       client,
		Seconds:      seconds,
		Records:      records,
		RecordsPerS:  float64(records) / seconds,
		P50Us:        us(0.5),
		P99Us:        us(0.99),
		P999Us:       us(0.999),
		Acknowledged: m.acknowledged.Load(),
		Errors:       m.errors.Load(),
		FirstError:   m.firstError.Load(),
	}
	if records > 0 {
		cpu := m.after.cpu - m.before.cpu
		r.CPUUsPerRecord = float64(cpu.Nanoseconds()) / 1e3 / float64(records)
	}
	return r
}

// eachDue calls visit for every due time until the input ends.
func eachDue(input io.Reader, visit func(dueNs int64)) {
	buffer := make([]byte, 64<<10)
	have := 0
	for {
		count, err := input.Read(buffer[have:])
		have += count
		whole := have &^ 7
		for at := 0; at < whole; at += 8 {
			visit(int64(binary.LittleEndian.Uint64(buffer[at:])))
		}
		have = copy(buffer, buffer[whole:have])
		if err != nil {
			return
		}
	}
}

// A histogram tells values apart to 1/64.
type histogram struct {
	counts [64 * 64]uint64
	total  uint64
}

func (h *histogram) add(value uint64) {
	h.counts[bucket(value)]++
	h.total++
}

// bucket is the power of two and the six bits behind the leading one.
func bucket(value uint64) int {
	if value < 64 {
		return int(value)
	}
	power := bits.Len64(value) - 7
	return (power+1)*64 + int(value>>power) - 64
}

func (h *histogram) at(quantile float64) uint64 {
	rest := uint64(quantile * float64(h.total))
	for index, count := range h.counts {
		if count > rest {
			if index < 64 {
				return uint64(index)
			}
			power := index/64 - 1
			return uint64(index%64+64) << power
		}
		rest -= count
	}
	return 0
}
