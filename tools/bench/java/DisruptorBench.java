// One producer and one consumer on an LMAX Disruptor, driven line by line over standard input.
//
//   CAPACITY PAUSES on the command line; then "single COUNT" or "batch COUNT SIZE" a line, answered by "NANOSECONDS SUM WRONG".
// A record is eight longs, the number of the record plus 0 to 7. Both ends add up all of them; the consumer also counts
// records that are not the next one. Having found nothing, the consumer pauses PAUSES times before it looks again, as
// ours does: that is several times faster than BusySpinWaitStrategy and YieldingWaitStrategy. Threads are named, so
// that whoever started us can pin them.

import com.lmax.disruptor.AlertException;
import com.lmax.disruptor.BatchEventProcessor;
import com.lmax.disruptor.EventHandler;
import com.lmax.disruptor.RingBuffer;
import com.lmax.disruptor.Sequence;
import com.lmax.disruptor.SequenceBarrier;
import com.lmax.disruptor.WaitStrategy;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.SynchronousQueue;

public final class DisruptorBench {
    static final class Record {
        long a, b, c, d, e, f, g, h;
    }

    static final class Reader implements EventHandler<Record> {
        BatchEventProcessor<Record> processor;
        long sum, wrong, next, count, endNanos;

        void expect(long records) {
            sum = 0;
            wrong = 0;
            next = 0;
            count = records;
        }

        @Override
        public void onEvent(Record record, long sequence, boolean endOfBatch) {
            if (record.a != next) {
                wrong++;
            }
            sum += record.a + record.b + record.c + record.d + record.e + record.f + record.g + record.h;
            if (++next == count) {
                endNanos = System.nanoTime();
                processor.halt();
            }
        }
    }

    static final class Patient implements WaitStrategy {
        private final int pauses;

        Patient(int pauses) {
            this.pauses = pauses;
        }

        @Override
        public long waitFor(long sequence, Sequence cursor, Sequence dependent, SequenceBarrier barrier)
            throws AlertException {
            long available = dependent.get();
            while (available < sequence) {
                barrier.checkAlert();
                for (int i = 0; i < pauses; i++) {
                    Thread.onSpinWait();
                }
                available = dependent.get();
            }
            return available;
        }

        @Override
        public void signalAllWhenBlocking() {
        }
    }

    static void fill(Record record, long number) {
        record.a = number;
        record.b = number + 1;
        record.c = number + 2;
        record.d = number + 3;
        record.e = number + 4;
        record.f = number + 5;
        record.g = number + 6;
        record.h = number + 7;
    }

    // Spins when the ring is full: `next` would park the thread for some 50 microseconds.
    static long claim(RingBuffer<Record> ring, int size) {
        while (!ring.hasAvailableCapacity(size)) {
            Thread.onSpinWait();
        }
        return size == 1 ? ring.next() : ring.next(size);
    }

    static long single(RingBuffer<Record> ring, long count) {
        long sum = 0;
        for (long number = 0; number < count; number++) {
            long sequence = claim(ring, 1);
            fill(ring.get(sequence), number);
            sum += 8 * number + 28;
            ring.publish(sequence);
        }
        return sum;
    }

    static long batch(RingBuffer<Record> ring, long count, int size) {
        long sum = 0;
        for (long number = 0; number < count; number += size) {
            int now = (int) Math.min(size, count - number);
            long last = claim(ring, now);
            long first = last - now + 1;
            for (int i = 0; i < now; i++) {
                fill(ring.get(first + i), number + i);
                sum += 8 * (number + i) + 28;
            }
            ring.publish(first, last);
        }
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        RingBuffer<Record> ring = RingBuffer.createSingleProducer(
            Record::new, Integer.parseInt(arguments[0]), new Patient(Integer.parseInt(arguments[1])));
        Reader reader = new Reader();
        BatchEventProcessor<Record> processor = new BatchEventProcessor<>(ring, ring.newBarrier(), reader);
        reader.processor = processor;
        ring.addGatingSequences(processor.getSequence());
        SynchronousQueue<Boolean> begin = new SynchronousQueue<>();
        SynchronousQueue<Boolean> ended = new SynchronousQueue<>();
        Thread consumer = new Thread(() -> {
            try {
                while (begin.take()) {
                    processor.run();
                    ended.put(true);
                }
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        }, "bench-consumer");
        Thread producer = new Thread(() -> {
            try {
                serve(ring, reader, processor, begin, ended);
                begin.put(false);
            } catch (Exception failed) {
                failed.printStackTrace();
                System.exit(1);
            }
        }, "bench-producer");
        consumer.setDaemon(true);
        consumer.start();
        producer.start();
    }

    static void serve(
        RingBuffer<Record> ring, Reader reader, BatchEventProcessor<Record> processor,
        SynchronousQueue<Boolean> begin, SynchronousQueue<Boolean> ended) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("ready");
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.trim().split(" ");
            long count = Long.parseLong(words[1]);
            reader.expect(count);
            begin.put(true);
            while (!processor.isRunning()) {
                Thread.onSpinWait();
            }
            long started = System.nanoTime();
            long sum = words[0].equals("single") ? single(ring, count) : batch(ring, count, Integer.parseInt(words[2]));
            ended.take();
            long wrong = reader.wrong + (sum == reader.sum ? 0 : 1);
            System.out.println((reader.endNanos - started) + " " + reader.sum + " " + wrong);
        }
    }
}
