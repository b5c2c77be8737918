// A compiled student that learns and some records in, one private step out: contract.json's `learning` in Swift.
//
// For packages of `limbeck build coreml --learns xs` or `--learns basis`. Goes with Student.swift, whose `embed` and
// `adapter` it uses. Written against iOS 18 and macOS 15. Not compiled and not run by this project: it has no Mac. What
// the functions compute is checked on Linux (tests/sdk/build/coreml/test_learning.py makes the same calls in Python).
//
// What this file does not do: charge the budget. Reserve the run *before* the first call, as `privacy.ledger` does, and
// let the gate (personalize/retention.py) judge the adapter before a person meets it.

import CoreML
import Foundation

struct Record {
    /// Tokens of prompt and answer, at most `positions`; the answer begins at `completion`, which is 1 or more.
    let tokens: [Int]
    let completion: Int
}

struct Learning: Decodable {
    struct Array: Decodable { let size: [Int]; let dtype: String }
    struct Function: Decodable { let inputs: [String: Array]; let outputs: [String: Array] }
    let records: Int
    let positions: Int
    let trained: [String]
    let functions: [String: Function]
}

final class Learner {
    private let contract: Contract
    private let learning: Learning
    private let below: MLModel?
    private let learn: MLModel
    private let worn: MLModel
    private let embed: (Int) -> [Float16]
    /// Factors that learning began with, `q_proj_a`, `q_proj_b`, …: a domain adapter, or A's frame and zeros.
    private let start: [String: MLMultiArray]
    /// What is trained, by name, float32; begins with zeros.
    private(set) var trained: [String: [Float]] = [:]

    init(compiled: URL, contract: Contract, learning: Learning, start: [String: MLMultiArray],
         embed: @escaping (Int) -> [Float16]) throws {
        func load(_ name: String, _ units: MLComputeUnits) throws -> MLModel {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            configuration.functionName = name
            configuration.allowLowPrecisionAccumulationOnGPU = false  // The clip counts on float32 as declared.
            return try MLModel(contentsOf: compiled, configuration: configuration)
        }
        self.contract = contract
        self.learning = learning
        self.start = start
        self.embed = embed
        below = contract.functions["below"] == nil ? nil : try load("below", .cpuAndNeuralEngine)
        learn = try load("learn", .cpuAndGPU)
        worn = try load("worn", .cpuAndGPU)
        for name in learning.trained {
            trained[name] = Swift.Array(repeating: 0, count: size(learning.functions["learn"]!.inputs[name]!.size))
        }
    }

    /// One step of DP gradient descent: clipped sums of all drawn records, noise once, divided by the public batch.
    ///
    /// - Parameters:
    ///   - drawn: Records whose own coin came up, or all of them where every one takes part in every step.
    ///   - expected: Sampling rate × number of records: public, whatever was drawn.
    ///   - clip: Largest norm of one record's gradient, as reserved.
    ///   - multiplier: Standard deviation of the noise over `clip`, as reserved.
    func step(drawn: [Record], expected: Double, clip: Double, multiplier: Double, rate: Double) throws {
        var sums = trained.mapValues { [Double](repeating: 0, count: $0.count) }
        for first in stride(from: 0, to: drawn.count, by: learning.records) {
            let group = Swift.Array(drawn[first..<min(first + learning.records, drawn.count)])
            let output = try learn.prediction(from: provider(arrays(group, clip)))
            for name in learning.trained {
                let part = output.featureValue(for: "sum_\(name)")!.multiArrayValue!
                for at in 0..<part.count { sums[name]![at] += Double(part[at].floatValue) / Learner.scale }
            }
        }
        for name in learning.trained {  // Also where nothing was drawn: an empty batch is noised and counted.
            for at in 0..<sums[name]!.count {
                let noised = sums[name]![at] + multiplier * clip * Learner.gaussian()
                trained[name]![at] -= Float(rate * noised / expected)
            }
        }
    }

    /// The adapter inputs of prefill and decode for what was learned; give them to `Student.adapter`.
    func adapter() throws -> [String: MLMultiArray] {
        var given = start.filter { learning.functions["worn"]!.inputs[$0.key] != nil }
        for name in learning.trained { given[name] = try filled("worn", name, trained[name]!) }
        let output = try worn.prediction(from: provider(given))
        var found = start
        for name in learning.functions["worn"]!.outputs.keys {
            found[String(name.dropFirst("worn_".count))] = output.featureValue(for: name)!.multiArrayValue!
        }
        return found
    }

    private static let scale = 8.0  // Keeps small gradients above float16's smallest; a power of two.

    private func arrays(_ group: [Record], _ clip: Double) throws -> [String: MLMultiArray] {
        let width = contract.width, positions = learning.positions
        var states = [Float](repeating: 0, count: learning.records * width * positions)
        var targets = [Float](repeating: 0, count: learning.records * positions * width)
        var weights = [Float](repeating: 0, count: learning.records * positions)
        for (row, record) in group.enumerated() {
            let above = try statesOf(record)
            for at in 0..<(width * positions) { states[row * width * positions + at] = above[at] }
            for place in 0..<(record.tokens.count - 1) {
                for (channel, value) in embed(record.tokens[place + 1]).enumerated() {  // The tied head's row.
                    targets[(row * positions + place) * width + channel] = Float(value)
                }
                weights[row * positions + place] = place + 1 >= record.completion ? 1 : 0
            }
        }
        var given = start
        given["states"] = try filled("learn", "states", states)
        given["targets"] = try filled("learn", "targets", targets)
        given["weights"] = try filled("learn", "weights", weights)
        given["clip"] = try filled("learn", "clip", [Float(clip)])
        given["scale"] = try filled("learn", "scale", [Float(Learner.scale)])
        for name in learning.trained { given[name] = try filled("learn", name, trained[name]!) }
        return given
    }

    /// What the frozen layers make of one record, (width, positions).
    private func statesOf(_ record: Record) throws -> [Float] {
        let width = contract.width, positions = learning.positions
        var hidden = [Float](repeating: 0, count: width * positions)
        for (place, token) in record.tokens.enumerated() {
            for (channel, value) in embed(token).enumerated() {
                hidden[channel * positions + place] = Float(value) * contract.embedding_scale
            }
        }
        guard let below else { return hidden }
        let frequencies = contract.rotation["global"]!, rows = 2 * frequencies.count
        var cosine = [Float](repeating: 0, count: rows * positions), sine = cosine
        var mask = [Float](repeating: 0, count: positions * positions)
        for place in 0..<positions {
            for row in 0..<rows {
                let angle = Float(place) * frequencies[row % frequencies.count]
                cosine[row * positions + place] = cos(angle) * contract.rotation_scale
                sine[row * positions + place] = sin(angle) * contract.rotation_scale
            }
            for seen in 0..<positions where seen > place { mask[place * positions + seen] = contract.masked }
        }
        let sizes = contract.functions["below"]!.inputs
        let given = try ["hidden": hidden, "cosine": cosine, "sine": sine, "mask": mask].map { name, values in
            (name, try Learner.filled(sizes[name]!, .float16, values))
        }
        let output = try below.prediction(from: provider(Dictionary(uniqueKeysWithValues: given)))
        let states = output.featureValue(for: "states")!.multiArrayValue!
        return (0..<states.count).map { states[[0, $0 / positions as NSNumber, 0, $0 % positions as NSNumber]].floatValue }
    }

    private func filled(_ function: String, _ name: String, _ values: [Float]) throws -> MLMultiArray {
        let array = learning.functions[function]!.inputs[name]!
        return try Learner.filled(array.size, array.dtype == "float32" ? .float32 : .float16, values)
    }

    private static func filled(_ size: [Int], _ type: MLMultiArrayDataType, _ values: [Float]) throws -> MLMultiArray {
        let array = try MLMultiArray(shape: size.map { $0 as NSNumber }, dataType: type)
        for (at, value) in values.enumerated() { array[at] = value as NSNumber }
        return array
    }

    private func provider(_ arrays: [String: MLMultiArray]) throws -> MLDictionaryFeatureProvider {
        try MLDictionaryFeatureProvider(dictionary: arrays.mapValues { MLFeatureValue(multiArray: $0) })
    }

    private func size(_ shape: [Int]) -> Int { shape.reduce(1, *) }

    /// Standard normal, from the system's random numbers; the sum of four draws, as in privacy/noise.py and for its reason.
    private static func gaussian() -> Double {
        var system = SystemRandomNumberGenerator()
        func uniform() -> Double { (Double(system.next() >> 11) + 1) * 0x1p-53 }
        return (0..<4).reduce(0) { total, _ in total + (-2 * log(uniform())).squareRoot() * cos(2 * .pi * uniform()) } / 2
    }
}
