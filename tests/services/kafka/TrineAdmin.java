// Administers the test brokers: TrineAdmin BOOTSTRAP [COMMAND ARG...] (cluster.py runs it). Each command
// answers in words on one line a thing, or fails with the broker's error on stderr and status 1. Without
// a command it takes them from its input, one a line with tabs between the words, and ends each answer
// with a line "ok" or "error WHY".

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;

public class TrineAdmin {
  static final String HELP = String.join("\n",
      "cluster                                       the controller and the brokers",
      "create TOPIC PARTITIONS REPLICAS [KEY=VALUE]  makes a topic with these configs",
      "create TOPIC 1,2,3;2,3,1 [KEY=VALUE]          makes one with the replicas of each partition, leaders first",
      "delete TOPIC | list",
      "partitions TOPIC COUNT                        raises the number of partitions",
      "config TOPIC KEY=VALUE...                     changes a topic's configs",
      "describe TOPIC                                leader, replicas, isr, leader epoch and end of each partition",
      "move TOPIC PARTITION NODE,NODE,...            gives a partition these replicas and the first as its leader",
      "truncate TOPIC PARTITION OFFSET               deletes the records before an offset",
      "groups | group GROUP | delete-group GROUP",
      "user NAME SCRAM-SHA-256|SCRAM-SHA-512 PASSWORD");
  static final int MOVE_LIMIT_MS = 30_000;

  public static void main(String[] words) throws Exception {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", words[0]);
    properties.put("request.timeout.ms", "10000");
    properties.put("default.api.timeout.ms", "30000");
    try (Admin admin = Admin.create(properties)) {
      if (words.length == 1) {
        converse(admin);
      } else {
        run(admin, words[1], Arrays.copyOfRange(words, 2, words.length));
      }
    } catch (ExecutionException error) {
      System.err.println(error.getCause());
      System.exit(1);
    }
  }

  static void converse(Admin admin) throws Exception {
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      String[] words = line.split("\t");
      try {
        run(admin, words[0], Arrays.copyOfRange(words, 1, words.length));
        System.out.println("ok");
      } catch (Exception error) {
        Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
        System.out.println("error " + cause.toString().replace('\n', ' '));
      }
      System.out.flush();
    }
  }

  static void run(Admin admin, String command, String[] args) throws Exception {
    switch (command) {
      case "cluster" -> cluster(admin);
      case "create" -> admin.createTopics(List.of(topic(args))).all().get();
      case "delete" -> admin.deleteTopics(List.of(args[0])).all().get();
      case "list" -> new TreeSet<>(admin.listTopics().names().get()).forEach(System.out::println);
      case "partitions" ->
          admin.createPartitions(Map.of(args[0], NewPartitions.increaseTo(Integer.parseInt(args[1])))).all().get();
      case "config" -> configure(admin, args[0], pairs(args, 1));
      case "describe" -> describe(admin, args[0]);
      case "move" -> move(admin, new TopicPartition(args[0], Integer.parseInt(args[1])), numbers(args[2]));
      case "truncate" -> {
        TopicPartition partition = new TopicPartition(args[0], Integer.parseInt(args[1]));
        RecordsToDelete before = RecordsToDelete.beforeOffset(Long.parseLong(args[2]));
        admin.deleteRecords(Map.of(partition, before)).all().get();
      }
      case "groups" -> admin.listGroups().all().get().forEach(group -> System.out.println(
          group.groupId() + " " + group.type().map(Object::toString).orElse("-")
          + " " + group.groupState().map(Object::toString).orElse("-")));
      case "group" -> group(admin, args[0]);
      case "delete-group" -> admin.deleteConsumerGroups(List.of(args[0])).all().get();
      case "user" -> {
        ScramMechanism mechanism = ScramMechanism.fromMechanismName(args[1]);
        ScramCredentialInfo info = new ScramCredentialInfo(mechanism, 4096);
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(args[0], info, args[2]))).all().get();
      }
      case "help" -> System.out.println(HELP);
      default -> throw new IllegalArgumentException("no command is called " + command);
    }
  }

  static void cluster(Admin admin) throws Exception {
    var cluster = admin.describeCluster();
    System.out.println("controller " + cluster.controller().get().id());
    for (Node node : cluster.nodes().get()) {
      System.out.println("broker " + node.id() + " " + node.host() + ":" + node.port());
    }
  }

  static NewTopic topic(String[] args) {
    if (!args[1].contains(",") && args.length > 2 && !args[2].contains("=")) {
      return new NewTopic(args[0], Integer.parseInt(args[1]), Short.parseShort(args[2])).configs(pairs(args, 3));
    }
    Map<Integer, List<Integer>> replicas = new TreeMap<>();
    for (String partition : args[1].split(";")) {
      replicas.put(replicas.size(), numbers(partition));
    }
    return new NewTopic(args[0], replicas).configs(pairs(args, 2));
  }

  static void configure(Admin admin, String topic, Map<String, String> configs) throws Exception {
    List<AlterConfigOp> changes = configs.entrySet().stream()
        .map(pair -> new AlterConfigOp(new ConfigEntry(pair.getKey(), pair.getValue()), AlterConfigOp.OpType.SET))
        .toList();
    ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
    admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
  }

  static void describe(Admin admin, String topic) throws Exception {
    var description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    for (TopicPartitionInfo partition : description.partitions()) {
      String line = "partition " + partition.partition();
      line += " leader " + (partition.leader() == null ? "none" : partition.leader().id());
      line += " replicas " + ids(partition.replicas()) + " isr " + ids(partition.isr());
      if (partition.leader() != null) {
        TopicPartition of = new TopicPartition(topic, partition.partition());
        var end = admin.listOffsets(Map.of(of, OffsetSpec.latest())).partitionResult(of).get();
        line += " epoch " + end.leaderEpoch().orElse(-1) + " end " + end.offset();
      }
      System.out.println(line);
    }
  }

  static void move(Admin admin, TopicPartition partition, List<Integer> replicas) throws Exception {
    admin.alterPartitionReassignments(
        Map.of(partition, Optional.of(new NewPartitionReassignment(replicas)))).all().get();
    long end = System.currentTimeMillis() + MOVE_LIMIT_MS;
    while (!admin.listPartitionReassignments(Set.of(partition)).reassignments().get().isEmpty()) {
      if (System.currentTimeMillis() > end) {
        throw new IllegalStateException("the reassignment still goes on");
      }
      Thread.sleep(50);
    }
    try {
      admin.electLeaders(ElectionType.PREFERRED, Set.of(partition)).all().get();
    } catch (ExecutionException error) {
      if (!(error.getCause() instanceof ElectionNotNeededException)) {
        throw error;
      }
    }
  }

  static void group(Admin admin, String name) throws Exception {
    var group = admin.describeConsumerGroups(List.of(name)).all().get().get(name);
    System.out.println("state " + group.groupState() + " type " + group.type() + " assignor "
        + group.partitionAssignor() + " coordinator " + group.coordinator().id());
    group.members().forEach(member -> System.out.println(
        "member " + member.consumerId() + " client " + member.clientId() + " partitions "
        + member.assignment().topicPartitions().stream().map(Object::toString).sorted().collect(Collectors.joining(","))));
    var committed = admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get();
    committed.forEach((partition, offset) -> {
      if (offset != null) {
        System.out.println("committed " + partition.topic() + " " + partition.partition() + " " + offset.offset());
      }
    });
  }

  static Map<String, String> pairs(String[] args, int from) {
    Map<String, String> pairs = new LinkedHashMap<>();
    for (String arg : Arrays.asList(args).subList(from, args.length)) {
      String[] pair = arg.split("=", 2);
      pairs.put(pair[0], pair[1]);
    }
    return pairs;
  }

  static List<Integer> numbers(String text) {
    return Arrays.stream(text.split(",")).map(Integer::valueOf).toList();
  }

  static String ids(List<Node> nodes) {
    return nodes.stream().map(Node::idString).collect(Collectors.joining(","));
  }
}
