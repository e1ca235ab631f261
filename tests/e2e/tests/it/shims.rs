//! What a Pod costs: an idle shim's memory.

use test_support::Node;

/// What the shims of this node weigh: how many, and the mean of their proportional set sizes in kB.
const WEIGH: &str = r"
for p in /proc/[0-9]*; do
  [ $(cat $p/comm 2>/dev/null || true) = skiff-shim ] 2>/dev/null && awk '/^Pss:/ {print $2}' $p/smaps_rollup
done | awk '{n++; sum+=$1} END {print n, int(sum/n)}'
";

#[test]
fn an_idle_shim_is_small() {
    let node = Node::start("shims");
    node.import_demo_images();
    let pods: String = (0..10)
        .map(|i| {
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"p{i}\"}}, \"spec\": {{\"containers\": [\
                 {{\"name\": \"c\", \"image\": \"localhost/skiff-demo:1\", \"command\": [\"sleep\", \"100000\"]}}]}}}}\n"
            )
        })
        .collect();
    let file = node.dir().join("pods.json");
    std::fs::write(&file, pods).unwrap();
    node.sh(&format!("kubectl apply -f {}", file.display()));
    node.sh("kubectl wait --for=condition=Ready pod --all --timeout=60s");
    // Long enough that what starting them needed is given back.
    let weight = node.sh(&format!("sleep 3; {WEIGH}"));
    let (count, mean) = weight.split_once(' ').unwrap();
    assert_eq!(count, "10", "{weight}");
    let mean: u64 = mean.parse().unwrap();
    println!("an idle shim: {mean} kB");
    assert!(mean <= 300, "an idle shim weighs {mean} kB");
}
